"""The parts that the files at the root are made of.

`pip install .` installs these rooms and nothing else; the commands are run from a clone. Three are
useful alone (docs/library.md): `captioning.metrics`, `captioning.decoding`, `captioning.vision`.

    system       command line, files, processes, devices, signals
    sources      where pictures and captions come from, and how they become a data set
    metrics      captions scored as coco-caption scores them, without Java
    vision       towers of the Hub as "pixels -> patch features"
    scenes       the drawn data set of the demo
    tracking     what is written down of a run while it goes on
    store        features and pixels on disk
    decoding     search over any model of the next token
    training     packing, recorded steps, averages, sharded weights, state
    sharing      checkpoints on the Hub
    reports      pages to look at
    streaming    pictures that pass, without end
    comparison   several models with several seeds
    export       captioners as files that run elsewhere

A room knows only rooms above it, and no file at the root.
"""
