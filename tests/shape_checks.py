"""The type checker behind jaxtyping's hook; an int is welcome where a float is expected, as everywhere in Python."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
