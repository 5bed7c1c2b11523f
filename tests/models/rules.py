"""How tests compare initial weights and weight decay with a reference's rules."""
import re

import pytest
import torch
from timm.optim import param_groups_weight_decay


def check_initial(model, pattern, std, mean=0., rel=0.05):
    """Mean and standard deviation over all parameters whose name matches."""
    values = torch.cat([p.detach().flatten() for n, p in model.named_parameters() if re.search(pattern, n)])
    assert float(values.std()) == pytest.approx(std, rel=rel, abs=1e-12), pattern
    assert float(values.mean()) == pytest.approx(mean, abs=rel * std + 1e-12), pattern


def decay_groups(model):
    """Names of the parameters without and with weight decay, as timm's optimizers group them."""
    free, decayed = param_groups_weight_decay(model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay())
    assert free['weight_decay'] == 0 and decayed['weight_decay'] == 0.05
    names = {id(p): n for n, p in model.named_parameters()}
    return tuple({names[id(p)] for p in group['params']} for group in (free, decayed))
