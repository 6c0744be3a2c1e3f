"""The bodies of Firecracker's API, and what a body that breaks a rule is answered.

Part of the Firecracker double; see `firecracker_double` for what it follows.
"""

import json
import re


class Fault(Exception):
    """A refusal: `status` and the fault message of its body."""

    def __init__(self, message, status=400):
        super().__init__(message)
        self.message = message
        self.status = status


def _malformed(problem):
    return Fault(f"An error occurred when deserializing the json body of a request: {problem}.")


def _object(fields, required=()):
    def check(value):
        if not isinstance(value, dict):
            raise _malformed(f"invalid type: {_shown(value)}, expected struct")
        for name in value:
            if name not in fields:
                expected = ", ".join(f"`{each}`" for each in fields)
                raise _malformed(f"unknown field `{name}`, expected one of {expected}")
        for name in required:
            if name not in value:
                raise _malformed(f"missing field `{name}`")
        for name, item in value.items():
            if item is not None or name in required:
                fields[name](item)

    return check


def _text(value):
    if not isinstance(value, str):
        raise _malformed(f"invalid type: {_shown(value)}, expected a string")


def _flag(value):
    if not isinstance(value, bool):
        raise _malformed(f"invalid type: {_shown(value)}, expected a boolean")


def _number(lowest=0, highest=2**64 - 1):
    def check(value):
        if isinstance(value, bool) or not isinstance(value, int):
            raise _malformed(f"invalid type: {_shown(value)}, expected an integer")
        if not lowest <= value <= highest:
            raise _malformed(f"invalid value: integer `{value}`")

    return check


def _one_of(*words, fold=False):
    def check(value):
        _text(value)
        if (value.lower() if fold else value) not in [w.lower() if fold else w for w in words]:
            raise _malformed(f"unknown variant `{value}`, expected one of {', '.join(words)}")

    return check


def _list_of(kind):
    def check(value):
        if not isinstance(value, list):
            raise _malformed(f"invalid type: {_shown(value)}, expected a sequence")
        for item in value:
            kind(item)

    return check


def _shown(value):
    return json.dumps(value)[:60]


_BUCKET = _object(
    {"size": _number(), "refill_time": _number(), "one_time_burst": _number()},
    ("size", "refill_time"),
)
_LIMITER = _object({"bandwidth": _BUCKET, "ops": _BUCKET})

BODIES = {
    "PUT /actions": _object(
        {"action_type": _one_of("FlushMetrics", "InstanceStart", "SendCtrlAltDel")},
        ("action_type",),
    ),
    "PUT /balloon": _object(
        {
            "amount_mib": _number(0, 2**32 - 1),
            "deflate_on_oom": _flag,
            "stats_polling_interval_s": _number(0, 2**16 - 1),
            "free_page_hinting": _flag,
            "free_page_reporting": _flag,
        },
        ("amount_mib", "deflate_on_oom"),
    ),
    "PATCH /balloon": _object({"amount_mib": _number(0, 2**32 - 1)}, ("amount_mib",)),
    "PUT /boot-source": _object(
        {"kernel_image_path": _text, "initrd_path": _text, "boot_args": _text},
        ("kernel_image_path",),
    ),
    "PUT /drives": _object(
        {
            "drive_id": _text,
            "is_root_device": _flag,
            "partuuid": _text,
            "cache_type": _one_of("Unsafe", "Writeback"),
            "is_read_only": _flag,
            "path_on_host": _text,
            "rate_limiter": _LIMITER,
            "io_engine": _one_of("Sync", "Async"),
            "socket": _text,
        },
        ("drive_id", "is_root_device"),
    ),
    "PATCH /drives": _object(
        {"drive_id": _text, "path_on_host": _text, "rate_limiter": _LIMITER}, ("drive_id",)
    ),
    "PUT /entropy": _object({"rate_limiter": _LIMITER}),
    "PUT /logger": _object(
        {
            "level": _one_of("Error", "Warning", "Info", "Debug", "Trace", "Off", fold=True),
            "log_path": _text,
            "show_level": _flag,
            "show_log_origin": _flag,
            "module": _text,
        }
    ),
    "PUT /machine-config": _object(
        {
            "vcpu_count": _number(0, 255),
            "mem_size_mib": _number(),
            "smt": _flag,
            "cpu_template": _one_of("C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"),
            "track_dirty_pages": _flag,
            "huge_pages": _one_of("None", "2M"),
        },
        ("vcpu_count", "mem_size_mib"),
    ),
    "PUT /metrics": _object({"metrics_path": _text}, ("metrics_path",)),
    "PUT /network-interfaces": _object(
        {
            "iface_id": _text,
            "host_dev_name": _text,
            "guest_mac": _text,
            "rx_rate_limiter": _LIMITER,
            "tx_rate_limiter": _LIMITER,
        },
        ("iface_id", "host_dev_name"),
    ),
    "PUT /serial": _object({"serial_out_path": _text}),
    "PUT /snapshot/create": _object(
        {
            "snapshot_type": _one_of("Full", "Diff"),
            "snapshot_path": _text,
            "mem_file_path": _text,
        },
        ("snapshot_path", "mem_file_path"),
    ),
    "PUT /snapshot/load": _object(
        {
            "snapshot_path": _text,
            "mem_file_path": _text,
            "mem_backend": _object(
                {"backend_type": _one_of("File", "Uffd"), "backend_path": _text},
                ("backend_type", "backend_path"),
            ),
            "enable_diff_snapshots": _flag,
            "track_dirty_pages": _flag,
            "resume_vm": _flag,
            "network_overrides": _list_of(
                _object({"iface_id": _text, "host_dev_name": _text}, ("iface_id", "host_dev_name"))
            ),
            "vsock_override": _object({"uds_path": _text}, ("uds_path",)),
        },
        ("snapshot_path",),
    ),
    "PATCH /vm": _object({"state": _one_of("Paused", "Resumed")}, ("state",)),
    "PUT /vsock": _object(
        {"guest_cid": _number(0, 2**32 - 1), "uds_path": _text, "vsock_id": _text},
        ("guest_cid", "uds_path"),
    ),
}
"""Method and path -> the check of its body; a path that names a resource is cut short."""

READS = ("/", "/balloon", "/machine-config", "/version", "/vm/config")
_RESOURCES = ("drives", "network-interfaces")


def parse(method, path, raw):
    """(`METHOD /path` as in BODIES, resource id or None, body or None), or Fault."""
    parts = path.strip("/").split("/")
    identifier = None
    if parts[0] in _RESOURCES:
        identifier = parts[1] if len(parts) > 1 else ""
        path = "/" + parts[0]
    if method == "GET":
        if raw:
            raise Fault("GET request cannot have a body.")
        if path not in READS:
            raise Fault(f"Invalid request method and/or path: GET {parts[0]}.")
        return f"GET {path}", None, None
    if not raw:
        raise Fault(f"Empty {method} request.")
    operation = f"{method} {path}"
    if operation not in BODIES:
        raise Fault(f"Invalid request method and/or path: {method} {parts[0]}.")
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise _malformed(error) from None
    BODIES[operation](body)
    if identifier is not None:
        _check_identifier(identifier, body)
    if operation == "PUT /snapshot/load" and ("mem_backend" in body) == ("mem_file_path" in body):
        several = "mem_backend" in body
        raise _malformed(
            ("too many fields: " if several else "missing field: ")
            + f"either `mem_backend` or `mem_file_path` {'exclusively ' * several}is required"
        )
    return operation, identifier, body


def _check_identifier(identifier, body):
    if not identifier:
        raise Fault("The ID cannot be empty.")
    if not re.fullmatch(r"[A-Za-z0-9_]+", identifier):
        raise Fault("API Resource IDs can only contain alphanumeric characters and underscores.")
    if identifier != body.get("drive_id", body.get("iface_id")):
        raise Fault("The id from the path does not match the id from the body!")
