"""Small runs that learn not from labels alone: from losses of layers, a teacher, rectified coordinates."""
import timm
import torch

BALANCED = dict(  # heads of blocks are routed, and a loss of theirs is added
    model='moh_transnext_small_75', extra_loss_weights='load_balance=0.5',
    model_kwargs="embed_dims=(8,16,16,16) depths=(1,1,2,1) num_heads=(1,2,4,4) "
                 "mixer_kwargs={'shared_heads':(1,1,1,2),'routed_heads':(0,1,2,1)}")
SPARSE = "embed_dim=24 depth=2 num_heads=3 mixer_kwargs={'token_keep':(0.7,0.5)} trained="
TEACHER = dict(embed_dim=24, depth=2, num_heads=3, img_size=32)
TAUGHT = dict(
    kd_model_name='deit_small_patch16_224',
    kd_model_kwargs=' '.join(f'{key}={value}' for key, value in TEACHER.items()))
RUNS = dict(
    balanced=BALANCED,
    reconstruction=dict(
        model='sparsifiner_small_patch16_prune', model_kwargs=SPARSE + 'predictor',
        extra_loss_weights='reconstruction=0.01'),
    tokens=dict(
        TAUGHT, model='sparsifiner_small_patch16_prune', model_kwargs=SPARSE + 'rest', kd_distill_type='sequence'),
    features=dict(
        TAUGHT, model='deit_tiny_patch16_224', model_kwargs='embed_dim=16 depth=2 num_heads=2 img_size=32',
        kd_distill_type='feature'),
    coordinates=dict(
        model='vsa_swin_tiny',
        model_kwargs="embed_dim=8 depths=(1,1,1,1) num_heads=(1,2,4,8) mixer_kwargs={'coords_lambda':0.5}"),
)


def flags_of(name, folder):
    """Options of one of ``RUNS``; its teacher, if it has one, is written to the folder."""
    flags = RUNS[name]
    if 'kd_model_name' in flags:
        torch.manual_seed(0)
        path = folder / 'teacher.pth'
        torch.save(timm.create_model(flags['kd_model_name'], num_classes=3, **TEACHER).state_dict(), path)
        flags = dict(flags, kd_teacher_checkpoint=path)
    return flags
