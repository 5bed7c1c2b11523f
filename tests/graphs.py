"""Checks of graphs that ops and models are recorded in, at other sizes than those they were recorded with."""
import pytest
import torch


def check_onnx(program, module, calls, folder, rtol=1e-4, atol=1e-5):
    """That onnxruntime computes what a module does, for every tuple of inputs."""
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    path = folder / 'model.onnx'
    torch.onnx.export(program, dynamo=True, verbose=False).save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for args in calls:
        y, = session.run(None, {given.name: x.numpy() for given, x in zip(session.get_inputs(), args)})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(y), module(*args), rtol=rtol, atol=atol)


def check_compiled(module, calls):
    """That a compiled module, without a break, gives the outputs and the gradients of the first input."""
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend='aot_eager')
    for x, *others in calls:
        x.requires_grad_()
        out, expected = compiled(x, *others), module(x, *others)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (out, expected)))
