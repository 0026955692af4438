"""Several models with several seeds on the same pictures: which captions better, how sure that is.

    runs = [read_run(folder, model="CLIP", seed=1, run_dir=...), ...]
    comparison = compare_runs(runs, {"NUM_EPOCHS": 15, ...})      the settings' defaults
    write_comparison(comparison, folder, title="CLIP or ViT?")

Open first `comparing`: scores with their intervals over pictures and over seeds, differences with
their p-values, all plain numbers. `runs` reads what an evaluation and a run have left. `findings`
says in sentences what the numbers show and what they cannot show; `page` and `tables` write them
as HTML, Markdown and JSON. `comparison_file` says what is wrong with the file of a comparison.

May know every room but `streaming`; opens no model, and takes settings as plain values. What a
comparison trains is planned by `compare.py`.
"""
