"""A page to try models, review the captions of a folder, and learn from what was corrected.

Open `server` first: what the page may ask. `album` is the folder with what is said of each picture,
`corrections` what people said, on disk at once, `drafts` what a file or the model said before;
`desk` is the one thread that uses models, `pictures` makes small copies, `learning` says how to go
on, `guard` who may ask at all. `page` holds what the browser reads: no build, no other server.

Knows `writing`, `reports`, `sources` and `system`; a model is whatever fits `desk.Model`.
"""
