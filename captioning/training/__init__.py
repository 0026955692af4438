"""Parts of training that know no settings: packing, averages, sharded weights, state."""
