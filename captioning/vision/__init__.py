"""From a picture to features: vision towers of the Hub, and what is done to pictures before.

Useful alone: any vision model of the Hub as "pixels -> patch features", frozen, on the device that
it is moved to, with a fingerprint that says whether two towers give the same features:

    from captioning.vision import FeatureChoice, VisionTower

    tower = VisionTower.from_pretrained("google/vit-base-patch16-224", image_size=384)
    features = tower(tower.preprocess(picture).unsqueeze(0))      # (1, P, F)

Open first `tower`: the class above. It is made of `loading` (find the tower in a repository, read
its weights, say what is wrong with it), `preprocessing` (a picture as 8-bit pixels) and
`tower_features` (which layers and tokens are features, and where they lie on the picture). What is
trained of a tower is told by `blocks` and `lora`. `augmentation` alters pictures, `mirroring` their
captions.

May know `system` and `sources`; knows nothing of captions but that left and right change places.
"""

from captioning.vision.preprocessing import ImagePreprocessor
from captioning.vision.tower import VisionTower
from captioning.vision.tower_features import FeatureChoice, FeatureShape

__all__ = ["FeatureChoice", "FeatureShape", "ImagePreprocessor", "VisionTower"]
