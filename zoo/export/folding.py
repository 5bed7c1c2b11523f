"""Computes ahead whatever does not depend on the image in a program of fixed size: tables, masks, fused weights."""
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

RANDOM = torch.Tag.nondeterministic_seeded
MOST_GROWTH = 4  # how much larger than its inputs a constant may be that is kept instead of them
# What a recorder writes behind a constant; a constant that was read from a file may be a view, which refuses it
IN_PLACE = {torch.ops.aten.detach_.default: torch.ops.aten.detach.default}
SMALL = 1 << 16  # elements: smaller ones are kept in any case


def without_in_place(program: ExportedProgram) -> ExportedProgram:
    """Replace in-place ``detach`` by the ordinary one throughout a program; return the program."""
    for node in program.graph.nodes:
        if node.op == 'call_function':
            node.target = IN_PLACE.get(node.target, node.target)
    program.graph_module.recompile()
    return program


@torch.no_grad()
def fold_constants(program: ExportedProgram) -> ExportedProgram:
    """The same program with everything computed ahead that depends on parameters and sizes only.

    Other runtimes then need no operators for it and do not compute it at every call.
    """
    module = program.module()
    values: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == 'get_attr':
            values[node] = _attribute(module, node.target)
        elif _is_constant(node, values):
            value = node.target(*fx.node.map_arg(node.args, values.get), **fx.node.map_arg(node.kwargs, values.get))
            sources = sum(values[x].numel() for x in node.all_input_nodes if isinstance(values[x], Tensor))
            if isinstance(value, Tensor) and value.numel() > max(MOST_GROWTH * sources, SMALL):
                continue
            values[node] = value
    _replace(module, _never_written(module.graph, values))
    args, kwargs = program.example_inputs
    return _without_aliases(torch.export.export(module, args, kwargs))


def _never_written(graph: fx.Graph, values: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
    """Without what shares memory with the target of an in-place call, and what depends on it."""
    written = {
        _memory(values[x]) for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)
        and node.target._schema.is_mutable for x in node.all_input_nodes if isinstance(values.get(x), Tensor)}
    kept: dict[fx.Node, Any] = {}
    for node, value in values.items():
        fresh = not (isinstance(value, Tensor) and _memory(value) in written)
        if fresh and all(x in kept for x in node.all_input_nodes):
            kept[node] = value
    return kept


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _without_aliases(program: ExportedProgram) -> ExportedProgram:
    """Take what is aliased in the place of aliases, which some runtimes copy."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.alias.default and all(user.op != 'output' for user in node.users):
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _attribute(module: torch.nn.Module, path: str) -> Any:
    for name in path.split('.'):
        module = getattr(module, name)
    return module


def _is_constant(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Whether a call depends on constants only, changes none of them and draws no random numbers."""
    target = node.target
    if node.op != 'call_function' or not all(x in values for x in node.all_input_nodes):
        return False
    if not isinstance(target, torch._ops.OpOverload):
        return bool(node.all_input_nodes)  # operator.getitem
    return RANDOM not in target.tags and not target._schema.is_mutable


def _replace(module: fx.GraphModule, values: dict[fx.Node, Any]) -> None:
    """Let those who use constants of calls read them from the module."""
    graph = module.graph
    for number, (node, value) in enumerate(values.items()):
        if value is None:  # a check of what is a constant now
            graph.erase_node(node)
        if node.op == 'get_attr' or not isinstance(value, Tensor) or all(user in values for user in node.users):
            continue
        name = f'_folded_{number}'
        module.register_buffer(name, value.detach().clone())
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(name))
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
