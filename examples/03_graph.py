"""Record a layer once, launch it often: inputs and routing may change between launches."""

import numpy as np

import nvfp4

rng = np.random.default_rng(0)
x = np.zeros((10, 128), np.float32)
ends = np.zeros(3, np.int32)
groups = nvfp4.Groups.by_ends(ends)


def layer(context, weights, x, groups):
    a = nvfp4.quantize(context, x, scope=nvfp4.Scope.ROW, groups=groups)
    return nvfp4.grouped_gemm(context, a, weights, groups=groups)


with nvfp4.Context() as context:
    weights = nvfp4.Weights.prepare(context, rng.standard_normal((3, 64, 128)).astype(np.float32))
    with nvfp4.Graph.capture(context.stream) as recording:
        out = layer(context, weights, x, groups)
    graph = recording.graph
    print(f"recorded {graph.node_count} calls")

    for split in ([10, 10, 10], [2, 2, 10], [1, 9, 10]):
        x[:], ends[:] = rng.standard_normal(x.shape), split
        graph.launch(context.stream)
        context.synchronize()
        assert (out == layer(context, weights, x, groups)).all()
        print(f"ends {split}: the replay has the bits of the eager calls")
