"""Where captions of many pictures go, and which pictures have theirs already.

    output = open_output("txt", "", pictures, shards)
    todo = [one for one in pictures if not output.has(one)]
    output.write([(one, captions), ...])      # a batch; on disk when it returns
    output.finish()

Open `outputs` first: `open_output` chooses by the form and the place that were asked for. `beside`
are files of their own, a picture each (.txt, .caption, .xmp by way of `sidecars`); `tables` are one
file of all, made whole at the end from a journal, in the shapes of `forms` (JSON Lines, CSV,
Parquet, COCO results); `printing` is standard output. `pictures` says what a picture is here,
`work` what a process has to do of all of them.

No picture is ever changed. A kill loses the batch in hand at most, and nothing half-written has a
good name. What is written here `sources` reads.

Knows `streaming`, `sources` and `system`; a caption is whatever has a text, its log-probability and
a confidence.
"""
