"""Checkpoints on the Hugging Face Hub: uploaded while a run trains, loaded by name.

Open first `repository`: how files travel, in one commit, and what to do where the Hub refuses,
as one sentence. `resolve_checkpoint` gives the folder of a name, from the cache where the Hub
cannot be reached.

`published` is a checkpoint's files without what is of this machine alone, `published_card` its
card, `added_forms` what `export.py` made of it.

`uploader` uploads each new best checkpoint in the background, of those that wait only the newest;
training never waits for it and never fails with it. `model_card` fills `templates/card.md`, the
`README.md` beside a checkpoint, with what was measured.

May know `system` and `tracking`; knows the settings by their type only. The client of the Hub is
imported where it is used.
"""
