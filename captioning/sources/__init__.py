"""Where pictures and captions come from, and how they become a data set on disk.

Open first `records`: a data set is a folder a split, with pictures and a `metadata.jsonl`, read
as `Record`s. Everything after `prepare_dataset.py` knows only these.

The way there, in its order: `origins` finds the pictures of a folder, an archive or a data set of
the Hub and their captions, which `caption_files` reads in many shapes, by the names and types of
`caption_fields`; `picture_pool` copies them into one folder, each checked by decoding it, and goes
on where it was stopped; `picture_splits` says which split each belongs to, equal pictures to the
same one; `prepared` makes the folder of it all, or finds it made.

`images` decodes one picture safely and upright, wherever the program needs one. `image_inputs` are
the pictures that a command line names: files, folders, patterns and URLs.

May know `system`; knows no model and no settings, and does without torch.
"""
