"""Diagnostics: each turns the checkpoints of a run into a tidy table.

Those that `co-probe probe` takes stand here by name; strength and gap have commands of their own.
"""

from co_probe.config.registry import Registry

PROBES = Registry(
    "probe",
    {
        "alignment": "co_probe.probes.alignment:Alignment",
        "curvature": "co_probe.probes.curvature:Curvature",
        "spectrum": "co_probe.probes.spectrum:Spectrum",
    },
)
