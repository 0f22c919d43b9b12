"""The type checker that jaxtyping's hook applies. It accepts an int for a float, as Python's type checkers do."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
