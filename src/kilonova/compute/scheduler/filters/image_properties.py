"""The image's architecture and hypervisor type are the host's."""

import numpy as np

from kilonova.compute.scheduler.snapshot import Mask, Request, Snapshot

_TYPES = {"qemu": "qemu", "kvm": "qemu", "fake": "fake"}
_ARCHITECTURES = {"amd64": "x86_64", "x86-64": "x86_64", "i386": "i686", "arm64": "aarch64"}


def _wanted(request: Request) -> tuple[str | None, str | None]:
    properties = request.image_properties
    arch = properties.get("hw_architecture") or properties.get("architecture")
    kind = properties.get("img_hv_type") or properties.get("hypervisor_type")
    return (_ARCHITECTURES.get(arch.lower(), arch.lower()) if arch else None, kind.lower() if kind else None)


class ImagePropertiesFilter:
    on_rebuild = True

    def mask(self, request: Request, hosts: Snapshot) -> Mask | None:
        arch, kind = _wanted(request)
        if arch is None and kind is None:
            return None
        fit = np.ones(len(hosts), dtype=bool)
        if arch is not None:
            fit &= (hosts.architectures == arch) | (hosts.architectures == "")
        if kind is not None:
            fit &= (hosts.types == _TYPES.get(kind, kind)) | (hosts.types == "fake")
        return fit

    def _refusal(self, arch: str | None, kind: str | None, hosts: Snapshot, at: int) -> str:
        host = hosts.hosts[at]
        have = host.cpu_info.get("arch")
        if arch is not None and have is not None and arch != have:
            return f"the image is for {arch}, its processor is {have}"
        if kind is not None and _TYPES.get(kind, kind) != host.hypervisor_type.lower() and host.hypervisor_type != "fake":
            return f"the image is for the hypervisor {kind}, it runs {host.hypervisor_type}"
        return ""

    def reason(self, request: Request, hosts: Snapshot, at: int) -> str:
        return self._refusal(*_wanted(request), hosts, at)
