"""What a RayService of KubeRay's v1 may say, as far as ours says it: names, types and what is required.

Read out of the published definition (helm chart of the operator, `ray.io_rayservices.yaml`, version v1); pods are
Kubernetes' own and are judged by its own schemas. A field that ours does not use is unknown here, so whoever uses
another one has to look it up, and add it.
"""

from typing import Any, Final

TEXT: Final = {"type": "string"}
TRUTH: Final = {"type": "boolean"}
COUNT: Final = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS: Final = {"type": "object", "additionalProperties": TEXT}
POD: Final = {"type": "object", "required": ["metadata", "spec"]}


def record(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """An object of these fields and no others."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


SECRET: Final = record(valueFrom=record(secretKeyRef=record(("key",), name=TEXT, key=TEXT)))
RAY_CLUSTER: Final = record(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=record(mode={"enum": ["disabled", "token"]}),
    gcsFaultToleranceOptions=record(redisAddress=TEXT, redisPassword=SECRET),
    # That `rayStartParams` has to be there is so in older versions only.
    headGroupSpec=record(("rayStartParams", "template"), rayStartParams=TEXTS, template=POD),
    workerGroupSpecs={
        "type": "array",
        "items": record(
            ("groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"),
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=TEXTS,
            template=POD,
        ),
    },
)
RAY_SERVICE: Final = record(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata=record(("name",), name=TEXT, annotations=TEXTS),
    spec=record(
        ("rayClusterConfig",),
        excludeHeadPodFromServeSvc=TRUTH,
        # The definition takes any text; these are those that the operator knows.
        upgradeStrategy=record(type={"enum": ["None", "NewCluster", "NewClusterWithIncrementalUpgrade"]}),
        serveConfigV2=TEXT,
        rayClusterConfig=RAY_CLUSTER,
    ),
)
