"""What pyproject.toml cannot say: `flags/` is installed within the package, as `nhn_tf.flags`."""

from setuptools import find_packages, setup

FLAGS = find_packages(include=["flags*"])

setup(
    packages=[*find_packages(include=["nhn_tf*"]), *(f"nhn_tf.{name}" for name in FLAGS)],
    package_dir={f"nhn_tf.{name}": name.replace(".", "/") for name in FLAGS},
)
