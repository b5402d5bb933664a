from dataclasses import dataclass, replace

from co_probe.config.sections import Axis, DataSection, Option
from co_probe.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Contrast(DataSection):
    """Images of less contrast."""

    share: float = 1.0

    shorthand = "share"
    options = (
        Option(
            flags="--contrast",
            setting="contrast",
            help="Share of the contrast that is left.",
            axis=Axis(name="contrasts", label="contrast", help="Shares of the contrast."),
        ),
    )

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise UserError(f"contrast must be between 0 and 1, not {self.share:g}")

    @property
    def caption(self):
        return f"contrast {self.share:g}"

    def transform(self, data):
        return replace(data, train_x=data.train_x * self.share, test_x=data.test_x * self.share)
