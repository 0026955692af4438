"""What people look at when a model was measured: pages, pictures, printed tables.

    write_evaluation(evaluation, folder)     metrics.json, captions.jsonl, report.html, captions.png
    write_strip(draw_strip(image, words), "words.png")

Open `results` first: an `Evaluation` is all that was measured, and there it is printed and written.
`report` makes its page, one HTML file that asks the network for nothing, out of `templates/`;
`gallery` chooses and embeds the pictures of that page, `charts` draws its curves and histograms as
SVG and tells how far confidence can be believed. `contact_sheet` and `strips` are pictures:
captions under their photographs, and what each word of a caption looked at.

The room opens no model. It takes plain values (`CaptionedPicture` of `sources.records`, score
sheets of `metrics`, numbers by name), so that captions of any model can be shown; it knows
`system`, `sources`, `metrics` and the curves of `tracking`. What an evaluation computes stands in
`evaluate.py`.
"""
