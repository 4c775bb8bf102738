"""The value of `ssim_is_that_of_scikit_image`: scikit-image 0.26.0, numpy 2."""

import numpy as np
from skimage.metrics import structural_similarity

i = np.arange(256)
a = (i / 255).astype(np.float32).reshape(16, 16)
b = ((i * i) % 251 / 255).astype(np.float32).reshape(16, 16)
_, whole = structural_similarity(
    a.astype(float), b.astype(float), gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1.0, full=True,
)
# The windows that lie in the picture.
print(whole[5:-5, 5:-5].mean())
