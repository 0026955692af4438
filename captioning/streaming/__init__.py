"""Pictures that pass: shards read one after another, in an order that resumes exactly.

    sources = find_sources("shards/*.tar = 3; user/name@revision = 1")
    steps = StreamSteps(sources, preprocess, make_step, runtime, settings, position=saved)
    for step in steps.iterate(0): ...
    saved = steps.position()

Open `steps` first: which picture comes next, and where every process stands. Below it, `reader`
decodes ahead of time, `lanes` gives shards their endless order, `shards` reads one tar or Parquet
file, `prepared_parts` a data set on disk; `cache` keeps features block by block, `held_out` says
what is kept from training.

Written here, because no library resumes a stream to the picture: webdataset has no such position,
`datasets` fills its shuffle buffer anew, others want a format of their own.

Knows `store`, `vision`, `sources` and `system`. What a step is, is the caller's: `make_step` makes
it of pictures and captions.
"""
