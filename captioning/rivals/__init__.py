"""Other captioners, of the Hub or of any program, that are scored beside ours on the same pictures.

    rival = Rival.from_pretrained("Salesforce/blip-image-captioning-base")
    rival.captions(["a.jpg", "b.jpg"], SearchOptions.of_beams(3))

Open first `model`: BLIP, GIT, ViT-GPT2 and chat models, loaded from safetensors without any code of
their own. `evaluating` captions a prepared split with one, or takes captions that another program
wrote, and gives what `reports` and `comparison` read.

May know every room but `comparison` and `streaming`; knows no model and no settings of ours.
"""
