"""What is written down of a run while it trains, and where its result comes from.

Open first `run_log`: `RunLog` hears of each step and each validation and tells three listeners by
name: the files of the run's folder (`metrics.jsonl`, `samples.jsonl`), the screen (`console`) and
Weights & Biases (`wandb_log`), which may be nowhere. `events` are what it tells them. `curves`
draws the numbers.

`provenance` records settings, code, packages, data and hardware of each start, without secrets;
`energy` meters what a run has used.

None of it may stop a run: W&B is a thread that is left alone where it does not answer, and what a
resumed run repeats is cut off the files first.

May know `system` and `sources`; knows the settings by their type only.
"""
