"""How a model is described over the Open Inference Protocol: metadata, configuration, statistics, from one source."""

from collections.abc import Mapping, Sequence

from groundwire.inference import model_config_pb2, service_pb2
from groundwire.server.priorities import default_priority
from groundwire.server.servable import Servable
from groundwire.server.statistics import Duration
from groundwire.server.tensors import BYTES, TensorSpec

# Of Triton's extensions, those that are offered whole.
EXTENSIONS = ("model_configuration", "statistics")
REPOSITORY_EXTENSION = "model_repository"  # with control by clients
PLATFORM = "onnxruntime_onnx"

_KINDS: Mapping[str, model_config_pb2.ModelInstanceGroup.Kind.ValueType] = {
    "cpu": model_config_pb2.ModelInstanceGroup.KIND_CPU,
    "cuda": model_config_pb2.ModelInstanceGroup.KIND_GPU,
    "tensorrt": model_config_pb2.ModelInstanceGroup.KIND_GPU,
}


def model_metadata(model: Servable, versions: Sequence[str]) -> service_pb2.ModelMetadataResponse:
    """Name, `versions` that answer, and tensors, shapes with the batch axis."""
    tensor = service_pb2.ModelMetadataResponse.TensorMetadata
    return service_pb2.ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=PLATFORM,
        inputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in model.inputs],
        outputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in model.outputs],
    )


def model_config(model: Servable, latest: int = 1) -> model_config_pb2.ModelConfig:
    """The same tensors as `model_metadata`, without the batch axis if there is one, and how they are run.

    `latest` is how many versions of the model may answer at once.
    """
    config = model_config_pb2.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend="onnxruntime",
        version_policy=model_config_pb2.ModelVersionPolicy(
            latest=model_config_pb2.ModelVersionPolicy.Latest(num_versions=latest)
        ),
        max_batch_size=model.max_batch,
        default_model_filename="model.onnx",
        instance_group=[
            model_config_pb2.ModelInstanceGroup(
                name=f"{model.name}_0", count=model.limits.instances, kind=_KINDS[model.provider]
            )
        ],
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=False),
    )
    for spec in model.inputs:
        config.input.add(name=spec.name, data_type=_data_type(spec), dims=_dims(model, spec))
    for spec in model.outputs:
        config.output.add(name=spec.name, data_type=_data_type(spec), dims=_dims(model, spec))
    if model.max_batch:
        batching = config.dynamic_batching
        batching.max_queue_delay_microseconds = round(model.limits.batch_delay * 1e6)
        if model.limits.priority_levels > 1:
            batching.priority_levels = model.limits.priority_levels
            batching.default_priority_level = default_priority(model.limits.priority_levels)
        batching.SetInParent()
    for name, value in model.settings.items():
        config.parameters[name].string_value = value
    return config


def model_statistics(model: Servable) -> service_pb2.ModelStatistics:
    """Counts and durations since the model was loaded, in the process that answers."""
    counted = model.statistics
    return service_pb2.ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=int(counted.last_run * 1000),
        inference_count=counted.rows,
        execution_count=counted.runs,
        inference_stats=service_pb2.InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.compute_input),
            compute_infer=_duration(counted.compute_infer),
            compute_output=_duration(counted.compute_output),
        ),
        batch_stats=[
            service_pb2.InferBatchStatistics(batch_size=rows, compute_infer=_duration(duration))
            for rows, duration in sorted(counted.batches.items())
        ],
    )


def _duration(duration: Duration) -> service_pb2.StatisticDuration:
    return service_pb2.StatisticDuration(count=duration.count, ns=round(duration.seconds * 1e9))


def _data_type(spec: TensorSpec) -> model_config_pb2.DataType.ValueType:
    name = "STRING" if spec.datatype == BYTES else spec.datatype
    return model_config_pb2.DataType.Value(f"TYPE_{name}")


def _dims(model: Servable, spec: TensorSpec) -> tuple[int, ...]:
    return spec.shape[1:] if model.max_batch else spec.shape
