"""The shapes of EC2's types are those that EC2 tells."""

from scsched.cluster import catalogue
from scsched.cluster.catalogue import Shape
from tests.cluster.ec2.rig import Rig

SAMPLE = ("c5.4xlarge", "c6a.8xlarge", "m6i.2xlarge", "r7i.xlarge", "i4i.4xlarge", "t3.small")
FAMILIES = "c5 c6i c6a c7i m5 m6i m7i r5 r6i r7i i3 i4i t3 g4dn g5 g6 p3 p4d"
GPUS = ("g4dn.12xlarge", "g5.xlarge", "g6.48xlarge", "p4d.24xlarge")


def test_shapes_agree_with_describe_instance_types(rig: Rig) -> None:
    answer = rig.box.ec2().describe_instance_types(InstanceTypes=[*SAMPLE, *GPUS])
    for told in answer["InstanceTypes"]:
        (gpu, *_) = told.get("GpuInfo", {}).get("Gpus") or [None]
        expected = Shape(
            cores=told["VCpuInfo"]["DefaultVCpus"],
            memory_gib=told["MemoryInfo"]["SizeInMiB"] / 1024,
            gpus=gpu["Count"] if gpu else 0,
            vram_gib=round(gpu["MemoryInfo"]["SizeInMiB"] / 1024, 2) if gpu else 0.0,
        )
        assert catalogue.least("ec2", [told["InstanceType"]]) == expected


def test_every_common_family_is_there() -> None:
    kinds = [kind for provider, kind in catalogue._table() if provider == "ec2"]
    assert set(FAMILIES.split()) <= {kind.partition(".")[0] for kind in kinds}


def test_the_least_of_several_types_holds_for_the_pool() -> None:
    found = catalogue.least("ec2", ["c6i.4xlarge", "c5.9xlarge", "m5.4xlarge"])
    assert found == Shape(cores=16, memory_gib=32.0)
