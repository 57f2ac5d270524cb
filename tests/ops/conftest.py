"""Operations are also tried where only JAX is installed."""

from tests.support.bare import bare_modules

bare_modules()
