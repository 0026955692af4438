"""GPT-2, alone or in a captioner, as others save it.

    gpt2 = open_captioner(Path("vit-gpt2"), "vit-gpt2")
    gpt2.fill(dict(decoder.named_parameters()), has_cross_attention=True)

Open first `folder`: what `save_pretrained` leaves, opened and checked. `names` is the table of
weights, ours and GPT-2's, for both ways; `architecture` reads the sizes in a config, `vocabulary`
byte-level BPE, `generation` how a captioner searches by itself. All of it comes from strangers:
nothing is built, filled or handed to a library before it was checked.

May know `system`, `vision` and `decoding`; knows no model of ours but the names of its weights.
"""
