"""What a program stands on: command line, errors, files, processes, devices and signals.

Open first `errors`: every command ends through `run_command`, and `UserError` is how any part says
what the user can mend. `options` makes a command line of a dataclass, of which `rules` says what
can be true of a field and `combinations` of several; `older_settings` reads settings as version 0.1
named them.

`files` writes a file whole or not at all, for all but a stream's kept blocks, which grow while they
are locked; `folders` does it for folders, with a manifest that proves what is in them, and
`tensors` reads and writes named tensors.

What others wrote, or may read: `terminal` shows their text without obeying it, `markdown` has
their names as letters, `privacy` takes secrets and places out of what is said or leaves.

`runtime` is the device, the precision and this process's place among others, and the only module
that knows of ranks; `processes` ends them together. `stopping` hears Ctrl-C and SIGTERM. `progress`
shows how far a long piece of work is.

Knows no other room and nothing of pictures or captions. `runtime` and `tensors` alone need torch,
so that `--help` does without.
"""
