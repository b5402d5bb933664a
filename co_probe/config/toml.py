"""Reading TOML that somebody else wrote."""

import tomllib
from typing import Any

from co_probe.errors import UserError


class InvalidTOML(UserError):
    """The text is not TOML."""


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Args:
        text: The content of a file.

    Raises:
        InvalidTOML: It is no TOML.
        UserError: It is nested too deeply, or has a number that is too long.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidTOML(f"no valid TOML: {error}") from error
    except RecursionError:
        raise UserError("arrays or tables are nested too deeply") from None
    except ValueError as error:  # Python refuses whole numbers of thousands of digits
        raise UserError(f"a number is too long: {error}") from error
