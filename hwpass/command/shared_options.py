"""Options that several commands have."""

from __future__ import annotations

from hwpass.command import ranges
from hwpass.command.grouped import option

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

THREADS = option(
    "--threads", group="Advanced", type=ranges.THREADS, default=1, show_default=True, help="Threads to compute with."
)
ALLOW = option(
    "--allow-external",
    group="Advanced",
    is_flag=True,
    help="Read the model's external data wherever it lies, not only in its folder.",
)
RUNNER = option(
    "--runner",
    default="onnxruntime",
    show_default=True,
    metavar="NAME[:ARGUMENT]",
    help="What runs the model: onnxruntime[:PROVIDER], openvino[:DEVICE], ncnn, or command:TEMPLATE, a program of your"
    " own that is given {model} and prints milliseconds.",
)
TIMEOUT = option(
    "--timeout",
    group="Advanced",
    type=ranges.TIMEOUT,
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="What one session may take.",
)
