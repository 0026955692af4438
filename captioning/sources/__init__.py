"""Where pictures and captions come from, and how they become a prepared data set."""
