"""Every document against the schema of its kind. A kind that has none is an error."""

import json
import pathlib

import jsonschema
import kubernetes_validate

SUPPORTED = ["1.33", "1.37"]
OWN = pathlib.Path(__file__).parents[2] / "deploy/k8s/schemas"


def check(docs):
    for doc in docs:
        try:
            kind(doc)
        except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
            place = ".".join(map(str, error.absolute_path)) or "it"
            raise AssertionError(f"{doc['kind']} {doc['metadata']['name']}: {place}: {error.message}") from None


def kind(doc):
    group = doc["apiVersion"].rpartition("/")[0]
    if "." not in group or group.endswith(".k8s.io") and group != "leaderworkerset.x-k8s.io":
        for version in SUPPORTED:
            kubernetes_validate.validate(doc, version, strict=True)
        return
    schema = foreign(doc["apiVersion"], doc["kind"])
    assert schema, f"nothing validates {doc['apiVersion']} {doc['kind']}: add a schema to deploy/k8s/schemas"
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(doc))
    if fault:
        raise fault
    for template in templates(doc):
        kind({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "within"}, "template": template})


def templates(doc):
    group = doc["spec"].get("leaderWorkerTemplate", {})
    return [group[which] for which in ("leaderTemplate", "workerTemplate") if which in group]


def foreign(api, kind):
    """The schema of another project's kind: of its models in Python, or written by hand."""
    own = OWN / f"{kind.lower()}.json"
    if own.exists():
        return json.loads(own.read_text())
    models = {}
    if api == "keda.sh/v1alpha1":
        from cloudcoil.models.keda import v1alpha1 as models
    elif api == "cert-manager.io/v1":
        from cloudcoil.models.cert_manager import v1 as models
    elif api == "monitoring.coreos.com/v1":
        from cloudcoil.models.prometheus_operator import v1 as models
    model = getattr(models, kind, None)
    return model and strict(model.model_json_schema(by_alias=True))


def strict(schema):
    """The same, without room for fields that it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(part) for key, part in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        schema.setdefault("additionalProperties", False)
    return schema
