"""Parsing of untrusted TOML."""

import tomllib
from typing import Any

from co_probe.errors import UserError


class InvalidTOML(UserError):
    """The text is not valid TOML."""


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Args:
        text: The content of a file.

    Raises:
        InvalidTOML: The text is not valid TOML.
        UserError: It is nested too deeply, or a number is too long.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidTOML(f"no valid TOML: {error}") from error
    except RecursionError:
        raise UserError("arrays or tables are nested too deeply") from None
    except ValueError as error:  # Python rejects integers of thousands of digits
        raise UserError(f"a number is too long: {error}") from error
