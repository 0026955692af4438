"""A trained captioner as files that run elsewhere, without this project and without torch.

Open `graphs` first: the two ONNX graphs, of a picture and of one step of a caption. `folder` writes
them with all that captions need besides, `resizing` says what is done to a picture so that Pillow
alone can do it, `quantising` makes graphs smaller, `web` adds the page, and `checking` captions
pictures both ways, which every export has to stand. `templates` holds what is copied as it is:
`caption.py`, which captions with the folder beside it, and the page.

Needs the extra `export`. The room knows no file at the root: models come as objects.
"""
