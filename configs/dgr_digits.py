"""Deep generative replay on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/dgr_digits.py

docs/experiments.md has the results of three seeds.
"""

from configs import common


def get_config():
    config = common.digits(common.experiment("dgr", mu=1.0, temperature=2.0))
    return common.autoencoder(config, channels=(16, 32, 64), latents=64)
