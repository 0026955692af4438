"""Where pictures and captions come from, and how they become a data set on disk.

Open first `records`: a data set is a folder a split, with pictures and a `metadata.jsonl`, read
as `Record`s. Everything after `prepare_dataset.py` knows only these.

The way there, in its order: `folder_source` finds the pictures of a folder or an archive and whose
captions they are, `origins` those of a data set of the Hub. Captions stand where `captions_beside`
looks, in the many shapes that `caption_files` and `caption_tables` read by the words of
`caption_fields`; `table_columns` tells the columns of a table apart, `picture_names` which file a
name means. `picture_pool` copies the pictures into one folder, each checked by decoding it, and
goes on where it was stopped; `picture_splits` says which split each belongs to, equal pictures to
the same one; `prepared` makes the folder of it all, or finds it made.

`images` decodes one picture safely and upright, wherever the program needs one. `image_inputs` are
the pictures that a command line names: files, folders, patterns and URLs.

May know `system`; knows no model and no settings, and does without torch.
"""
