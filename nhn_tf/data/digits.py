"""The 1,797 handwritten digits that come with the package, so that a first run needs no download.

Source: the test set of E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits* (UCI Machine Learning
Repository, 1998, doi:10.24432/C50P49), CC BY 4.0; the same images in the same order as scikit-learn's `load_digits`.
"""

from pathlib import Path
from typing import Final

import numpy as np

from nhn_tf.data.splits import Source, Split

FILE: Final = Path(__file__).with_name("digits.npz")
"""`images` [1797, 8, 8] uint8, grey levels 0..16, and `labels` [1797] uint8."""


def read() -> Source:
    """All of them in one split, grey levels scaled to 0..255."""
    with np.load(FILE) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    images = np.rint(images * (255 / 16)).astype(np.uint8)[..., None]
    return Source(Split(images, labels.astype(np.int32)), None, tuple("0123456789"), flip=False)
