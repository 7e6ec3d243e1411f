# SPDX-License-Identifier: Apache-2.0
"""Packs the modules and the extension that the build has made into a wheel; tools/wheel calls it."""
import sys

from setuptools import setup
from setuptools.dist import Distribution

ABI3 = sys.version_info >= (3, 11)


class Binary(Distribution):
    """A package with an extension that was compiled before."""

    def has_ext_modules(self):
        return True


setup(distclass=Binary, packages=["granary"], package_data={"granary": ["*.so", "*.pyi", "py.typed"]},
      options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {})
