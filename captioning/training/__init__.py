"""Parts of training that know no settings: what surrounds, packs, averages and splits it.

Open `packing` first: captions of different lengths side by side, without padding. `recording` lets
a GPU repeat a step without being told each kernel. `averaging` averages gradients over processes,
`weight_average` keeps a moving average of the weights, `sharding` a trained encoder in parts.
`reward` is what self-critical training raises, `train_state` where training stands, as a checkpoint
has it, and `guards` stand around a run: one process at a time in its folder, faults of the machine
in words.

Knows `system` and `vision`. The step itself, its loss and its schedule are in `optimization.py`,
the loop in `trainer.py`.
"""
