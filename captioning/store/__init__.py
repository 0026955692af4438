"""Rows on disk: the features or pixels of each picture, made once, memory-mapped ever after.

    maker = RowMaker(tower, runtime)
    store = build_features(images, maker, folder, label="train", num_workers=2, batch_size=32)
    store.rows(torch.tensor([5, 0]))       # (2, P, F), on the device

Open `rows` first: what gives the rows of pictures, from a finished store or from picture files.
`building` fills a store, `files` says how it lies on disk and what makes it stale, `views` what one
epoch reads of each picture (as it is, altered, or one of several views).

Knows files, devices and processes (`system`), pictures (`sources`) and towers (`vision`); nothing
of captions, settings or training.
"""
