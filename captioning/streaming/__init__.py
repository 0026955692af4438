"""Pictures that pass: shards, their endless order, what is held out of them."""
