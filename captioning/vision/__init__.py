"""From a picture to features: vision towers of the Hub, their preprocessing, altered views."""
