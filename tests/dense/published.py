"""The published recipes for detection and segmentation: what the authors' configurations say, by the name of ours.

``batch`` is that of 8 devices; ``drop_path`` is the backbone's, None where the model's default holds; ``no_decay`` is
a word of ``NO_DECAY``; ``loss_scale`` is None without mixed precision; ``sizes`` are 'many' where images are resized at
random; ``figures`` are quoted in the docstring, as ``commit`` is. Schedules follow from the end of the name, but for
those in ``OTHER``: length (epochs; iterations if more than 100), steps and factor of the warm-up, and what follows.
FLatten and InLine have no configurations: they share those of Agent.
"""


def rows(columns, table, **shared):
    """Recipe name -> figures, from rows of columns and what all of them share."""
    return {name: dict(shared, **dict(zip(columns.split(), row, strict=True))) for name, row in table.items()}


NO_DECAY = {
    '': (),
    'norms': ('norm',),
    'any norm': ('norm',),  # and norms of other names
    'bias': ('norm', 'rel_pos'),  # the name of relative_position_bias_table here
    'agents': ('norm', 'rel_pos', 'agent_bias', 'query_bias'),  # of an_bias, ah_bias, aw_bias, na_bias, ...
    'frozen': ('.bn', 'downsample.1'),  # nor learn
}
SCHEDULES = {
    '1x': (12, 500, 1e-3, 'steps at 8, 11'),
    '3x': (36, 500, 1e-3, 'steps at 27, 33'),
    '40k': (40000, 0, None, 'power 0.9 to 0.0'),
    '80k': (80000, 0, None, 'power 0.9 to 1e-06'),
    '160k': (160000, 1500, 1e-6, 'power 1.0 to 0.0'),
}
OTHER = {
    'fpn_biformer_small_80k': (80000, 1000, 0.1, 'cosine to 1e-08 of it'),
    'fpn_biformer_base_80k': (80000, 1000, 0.1, 'cosine to 1e-08 of it'),
    'fpn_biformer_stl_80k': (80000, 1000, 0.1, 'cosine to 1e-08 of it'),
    'fpn_efficientmod_s_40k': (40000, 1000, 0.1, 'cosine to 1e-06 of it'),
    'fpn_efficientmod_s_conv_40k': (40000, 1000, 0.1, 'cosine to 0.0 of it'),
    'mask_rcnn_iformer_m_1x': (12, 500, 1e-6, 'steps at 8, 11'),
    'mask_rcnn_iformer_l_1x': (12, 500, 1e-6, 'steps at 8, 11'),
    'fpn_iformer_m_40k': (40000, 0, None, 'power 0.9 to 1e-06'),
    'fpn_iformer_l_40k': (40000, 0, None, 'power 0.9 to 1e-06'),
}

FLATTEN = rows('lr weight_decay drop_path no_decay sizes figures', {
    'retinanet_flatten_pvt_small_1x': (1e-4, 1e-4, 0.1, '', 'single', 'no figure in the repository'),
    'retinanet_flatten_pvt_tiny_1x': (1e-4, 1e-4, 0.1, '', 'single', 'no figure in the repository'),
    'mask_rcnn_flatten_pvt_small_1x': (2e-4, 1e-4, 0.2, '', 'single', 'no figure in the repository'),
    'mask_rcnn_flatten_pvt_tiny_1x': (2e-4, 1e-4, 0.1, '', 'single', '38.2 box AP, 37.0 mask AP'),
    'mask_rcnn_flatten_swin_tiny_1x': (1e-4, 0.05, 0.1, 'bias', 'many', '44.2 box AP, 40.2 mask AP'),
    'mask_rcnn_flatten_swin_tiny_3x': (1e-4, 0.05, 0.1, 'bias', 'many', '46.5 box AP, 42.1 mask AP'),
    'cascade_mask_rcnn_flatten_swin_small_3x': (1e-4, 0.05, 0.1, 'bias', 'many', '52.2 box AP, 45.4 mask AP'),
    'cascade_mask_rcnn_flatten_swin_tiny_3x': (1e-4, 0.05, 0.1, 'bias', 'many', '50.8 box AP, 44.1 mask AP'),
    'fpn_flatten_pvt_small_40k': (2e-4, 1e-4, 0.1, '', 'single', 'no figure in the repository'),
    'fpn_flatten_pvt_tiny_40k': (2e-4, 1e-4, 0.1, '', 'single', '37.21 mIoU'),
    'upernet_flatten_swin_small_160k': (6e-5, 0.01, 0.3, 'bias', 'single', '48.14 mIoU'),
    'upernet_flatten_swin_tiny_160k': (6e-5, 0.01, 0.3, 'bias', 'single', '44.82 mIoU'),
}, batch=16, optimizer='AdamW', loss_scale=None, commit='abdb115')

AGENT_PVT = rows('lr drop_path figures', {
    'retinanet_agent_pvt_large_1x': (1e-4, 0.3, '46.8 box AP'),
    'retinanet_agent_pvt_medium_1x': (1e-4, 0.2, '45.8 box AP'),
    'retinanet_agent_pvt_small_1x': (1e-4, 0.1, '44.1 box AP'),
    'retinanet_agent_pvt_tiny_1x': (1e-4, 0.1, '40.3 box AP'),
    'mask_rcnn_agent_pvt_large_1x': (2e-4, 0.2, '46.9 box AP, 42.8 mask AP'),
    'mask_rcnn_agent_pvt_medium_1x': (2e-4, 0.1, '45.9 box AP, 42.0 mask AP'),
    'mask_rcnn_agent_pvt_small_1x': (2e-4, 0.2, '44.5 box AP, 41.2 mask AP'),
    'mask_rcnn_agent_pvt_tiny_1x': (2e-4, 0.1, '41.4 box AP, 38.7 mask AP'),
    'fpn_agent_pvt_large_40k': (2e-4, 0.1, '46.52 mIoU'),
    'fpn_agent_pvt_medium_40k': (2e-4, 0.2, '44.30 mIoU'),
    'fpn_agent_pvt_small_40k': (2e-4, 0.1, '44.18 mIoU'),
    'fpn_agent_pvt_tiny_40k': (2e-4, 0.1, '40.18 mIoU'),
}, weight_decay=1e-4, batch=16, optimizer='AdamW', no_decay='', loss_scale=None, sizes='single', commit='207ce3e')

AGENT_SWIN = rows('lr weight_decay drop_path sizes figures', {
    'mask_rcnn_agent_swin_small_1x': (1e-4, 0.05, 0.1, 'many', '47.2 box AP, 42.7 mask AP'),
    'mask_rcnn_agent_swin_tiny_1x': (1e-4, 0.05, 0.1, 'many', '44.6 box AP, 40.7 mask AP'),
    'mask_rcnn_agent_swin_small_3x': (1e-4, 0.05, 0.1, 'many', '48.9 box AP, 43.8 mask AP'),
    'mask_rcnn_agent_swin_tiny_3x': (1e-4, 0.05, 0.1, 'many', '47.3 box AP, 42.7 mask AP'),
    'cascade_mask_rcnn_agent_swin_tiny_1x': (1e-4, 0.05, 0.1, 'many', '49.2 box AP, 42.7 mask AP'),
    'cascade_mask_rcnn_agent_swin_base_3x': (1e-4, 0.05, 0.4, 'many', '52.6 box AP, 45.3 mask AP'),
    'cascade_mask_rcnn_agent_swin_small_3x': (1e-4, 0.05, 0.1, 'many', '52.6 box AP, 45.5 mask AP'),
    'cascade_mask_rcnn_agent_swin_tiny_3x': (1e-4, 0.05, 0.1, 'many', '51.4 box AP, 44.5 mask AP'),
    'upernet_agent_swin_base_160k': (6e-5, 0.01, 0.5, 'single', '48.73 mIoU'),
    'upernet_agent_swin_small_160k': (6e-5, 0.01, 0.3, 'single', '48.08 mIoU'),
    'upernet_agent_swin_tiny_160k': (6e-5, 0.01, 0.3, 'single', '46.68 mIoU'),
}, batch=16, optimizer='AdamW', no_decay='agents', loss_scale=None, commit='207ce3e')

INLINE = rows('drop_path figures', {
    'mask_rcnn_inline_pvt_large_1x': (0.2, 'no figure in the repository'),
    'mask_rcnn_inline_pvt_medium_1x': (0.1, 'no figure in the repository'),
    'mask_rcnn_inline_pvt_small_1x': (0.2, 'no figure in the repository'),
    'mask_rcnn_inline_pvt_tiny_1x': (0.1, 'no figure in the repository'),
}, lr=2e-4, weight_decay=1e-4, batch=16, optimizer='AdamW',
    no_decay='', loss_scale=None, sizes='single', commit='e463a6f')

RAVLT = rows('lr weight_decay drop_path batch no_decay loss_scale sizes figures', {
    'retinanet_ravlt_b_1x': (1e-4, 1e-4, 0.4, 16, '', 512.0, 'single', '49.8 box AP'),
    'retinanet_ravlt_l_1x': (1e-4, 1e-4, 0.55, 16, '', 512.0, 'single', '50.9 box AP'),
    'retinanet_ravlt_s_1x': (1e-4, 1e-4, 0.15, 16, '', 512.0, 'single', '48.3 box AP'),
    'retinanet_ravlt_t_1x': (1e-4, 1e-4, 0.1, 16, '', 512.0, 'single', '45.9 box AP'),
    'mask_rcnn_ravlt_b_1x': (1e-4, 0.05, 0.4, 16, 'norms', 'dynamic', 'single', '51.2 box AP, 45.7 mask AP'),
    'mask_rcnn_ravlt_l_1x': (1e-4, 0.05, 0.55, 16, 'norms', 'dynamic', 'single', '52.3 box AP, 46.4 mask AP'),
    'mask_rcnn_ravlt_s_1x': (1e-4, 0.05, 0.15, 16, 'norms', 'dynamic', 'single', '49.8 box AP, 44.6 mask AP'),
    'mask_rcnn_ravlt_t_1x': (1e-4, 0.05, 0.1, 16, 'norms', 'dynamic', 'single', '47.3 box AP, 42.7 mask AP'),
    'mask_rcnn_ravlt_b_3x': (1e-4, 0.05, 0.4, 16, 'norms', 'dynamic', 'many', '52.7 box AP, 46.4 mask AP'),
    'mask_rcnn_ravlt_l_3x': (1e-4, 0.05, 0.55, 8, 'norms', 'dynamic', 'many', '53.6 box AP, 47.3 mask AP'),
    'mask_rcnn_ravlt_s_3x': (1e-4, 0.05, 0.15, 16, 'norms', 'dynamic', 'many', '51.4 box AP, 45.5 mask AP'),
    'cascade_mask_rcnn_ravlt_b_3x': (1e-4, 0.05, 0.4, 16, 'any norm', 'dynamic', 'many', '55.3 box AP, 47.7 mask AP'),
    'cascade_mask_rcnn_ravlt_l_3x': (1e-4, 0.05, 0.55, 16, 'any norm', 'dynamic', 'many', '55.6 box AP, 48.0 mask AP'),
    'cascade_mask_rcnn_ravlt_s_3x': (1e-4, 0.05, 0.15, 16, 'any norm', 'dynamic', 'many', '54.2 box AP, 46.8 mask AP'),
    'fpn_ravlt_b_80k': (1e-4, 1e-4, 0.4, 16, '', None, 'single', '51.9 mIoU'),
    'fpn_ravlt_l_80k': (1e-4, 1e-4, 0.55, 16, '', None, 'single', '52.6 mIoU'),
    'fpn_ravlt_s_80k': (1e-4, 1e-4, 0.15, 16, '', None, 'single', '49.5 mIoU'),
    'fpn_ravlt_t_80k': (1e-4, 1e-4, 0.1, 16, '', None, 'single', '47.9 mIoU'),
    'upernet_ravlt_b_160k': (6e-5, 0.01, 0.4, 16, 'norms', 512.0, 'single', '52.5 mIoU'),
    'upernet_ravlt_l_160k': (6e-5, 0.01, 0.55, 16, 'norms', 512.0, 'single', '53.2 mIoU'),
    'upernet_ravlt_s_160k': (6e-5, 0.01, 0.15, 16, 'norms', 512.0, 'single', '50.7 mIoU'),
}, optimizer='AdamW', commit='a86314f')

MAVIT = rows('lr weight_decay drop_path batch no_decay loss_scale sizes figures', {
    'retinanet_mavit_b_1x': (4e-4, 1e-4, 0.4, 16, '', 512.0, 'single', 'no figure in the repository'),
    'retinanet_mavit_l_1x': (4e-4, 1e-4, 0.55, 16, '', 512.0, 'single', 'no figure in the repository'),
    'retinanet_mavit_s_1x': (4e-4, 1e-4, 0.15, 16, '', 512.0, 'single', 'no figure in the repository'),
    'retinanet_mavit_t_1x': (4e-4, 1e-4, 0.1, 16, '', 512.0, 'single', 'no figure in the repository'),
    'mask_rcnn_mavit_b_1x': (4e-4, 0.05, 0.4, 16, 'norms', 'dynamic', 'single', 'no figure in the repository'),
    'mask_rcnn_mavit_l_1x': (4e-4, 0.05, 0.55, 16, 'norms', 'dynamic', 'single', 'no figure in the repository'),
    'mask_rcnn_mavit_s_1x': (4e-4, 0.05, 0.15, 16, 'norms', 'dynamic', 'single', 'no figure in the repository'),
    'mask_rcnn_mavit_t_1x': (4e-4, 0.05, 0.1, 16, 'norms', 'dynamic', 'single', 'no figure in the repository'),
    'mask_rcnn_mavit_b_3x': (4e-4, 0.05, 0.4, 16, 'norms', 'dynamic', 'many', 'no figure in the repository'),
    'mask_rcnn_mavit_l_3x': (2e-4, 0.05, 0.55, 8, 'norms', 'dynamic', 'many', 'no figure in the repository'),
    'mask_rcnn_mavit_s_3x': (4e-4, 0.05, 0.15, 16, 'norms', 'dynamic', 'many', 'no figure in the repository'),
    'cascade_mask_rcnn_mavit_b_3x': (4e-4, 0.05, 0.4, 16, 'any norm', 'dynamic', 'many', 'no figure in the repository'),
    'cascade_mask_rcnn_mavit_l_3x': (2e-4, 0.05, 0.55, 8, 'any norm', 'dynamic', 'many', 'no figure in the repository'),
    'cascade_mask_rcnn_mavit_s_3x': (
        4e-4, 0.05, 0.15, 16, 'any norm', 'dynamic', 'many', 'no figure in the repository'),
    'fpn_mavit_b_80k': (1e-4, 1e-4, 0.4, 16, '', None, 'single', 'no figure in the repository'),
    'fpn_mavit_l_80k': (1e-4, 1e-4, 0.55, 16, '', None, 'single', 'no figure in the repository'),
    'fpn_mavit_s_80k': (1e-4, 1e-4, 0.15, 16, '', None, 'single', 'no figure in the repository'),
    'fpn_mavit_t_80k': (1e-4, 1e-4, 0.1, 16, '', None, 'single', 'no figure in the repository'),
    'upernet_mavit_b_160k': (6e-5, 0.01, 0.4, 16, 'norms', 512.0, 'single', 'no figure in the repository'),
    'upernet_mavit_l_160k': (6e-5, 0.01, 0.55, 8, 'norms', 512.0, 'single', 'no figure in the repository'),
    'upernet_mavit_s_160k': (6e-5, 0.01, 0.15, 16, 'norms', 512.0, 'single', 'no figure in the repository'),
    'upernet_mavit_t_160k': (6e-5, 0.01, 0.1, 16, 'norms', 512.0, 'single', 'no figure in the repository'),
}, optimizer='AdamW', commit='7114e63')

L2VIT = rows('lr weight_decay drop_path sizes figures', {
    'retinanet_l2vit_base_1x': (1e-4, 0.05, 0.2, 'many', 'no figure in the repository'),
    'retinanet_l2vit_small_1x': (1e-4, 0.05, 0.1, 'many', 'no figure in the repository'),
    'retinanet_l2vit_tiny_1x': (1e-4, 0.05, 0.1, 'many', 'no figure in the repository'),
    'retinanet_l2vit_base_3x': (1e-4, 0.05, 0.3, 'many', 'no figure in the repository'),
    'retinanet_l2vit_small_3x': (1e-4, 0.05, 0.2, 'many', 'no figure in the repository'),
    'retinanet_l2vit_tiny_3x': (1e-4, 0.05, 0.2, 'many', 'no figure in the repository'),
    'mask_rcnn_l2vit_base_1x': (1e-4, 0.05, 0.2, 'many', 'no figure in the repository'),
    'mask_rcnn_l2vit_small_1x': (1e-4, 0.05, 0.1, 'many', 'no figure in the repository'),
    'mask_rcnn_l2vit_tiny_1x': (1e-4, 0.05, 0.1, 'many', 'no figure in the repository'),
    'mask_rcnn_l2vit_base_3x': (1e-4, 0.05, 0.3, 'many', 'no figure in the repository'),
    'mask_rcnn_l2vit_small_3x': (1e-4, 0.05, 0.2, 'many', 'no figure in the repository'),
    'mask_rcnn_l2vit_tiny_3x': (1e-4, 0.05, 0.2, 'many', 'no figure in the repository'),
    'upernet_l2vit_base_160k': (6e-5, 0.01, 0.3, 'single', 'no figure in the repository'),
    'upernet_l2vit_small_160k': (6e-5, 0.01, 0.3, 'single', 'no figure in the repository'),
    'upernet_l2vit_tiny_160k': (6e-5, 0.01, 0.3, 'single', 'no figure in the repository'),
}, batch=16, optimizer='AdamW', no_decay='', loss_scale=None, commit='fad0341')

BIFORMER = rows('lr weight_decay drop_path batch no_decay loss_scale figures', {
    'retinanet_biformer_base_1x': (1e-4, 1e-4, 0.3, 16, '', 512.0, '47.1 box AP'),
    'retinanet_biformer_small_1x': (1e-4, 1e-4, 0.2, 16, '', 512.0, '45.9 box AP'),
    'mask_rcnn_biformer_base_1x': (1e-4, 0.05, 0.3, 16, 'norms', 512.0, '48.6 box AP, 43.7 mask AP'),
    'mask_rcnn_biformer_small_1x': (1e-4, 0.05, 0.2, 16, 'norms', 512.0, '47.8 box AP, 43.2 mask AP'),
    'fpn_biformer_base_80k': (2e-4, 1e-4, 0.3, 32, '', 512.0, '49.9 mIoU'),
    'fpn_biformer_small_80k': (2e-4, 1e-4, 0.15, 32, '', 512.0, '48.9 mIoU'),
    'fpn_biformer_stl_80k': (2e-4, 1e-4, 0.1, 32, '', None, 'no figure in the repository'),
    'upernet_biformer_base_160k': (6e-5, 0.01, 0.4, 16, 'norms', 512.0, '51.0 mIoU, 51.7 at many scales'),
    'upernet_biformer_small_160k': (6e-5, 0.01, 0.3, 16, 'norms', 512.0, '49.8 mIoU, 50.8 at many scales'),
}, optimizer='AdamW', sizes='single', commit='1697bbb')

EFFICIENTMOD = rows('weight_decay figures', {
    'mask_rcnn_efficientmod_s_1x': (0.05, '43.6 box AP, 40.3 mask AP'),
    'mask_rcnn_efficientmod_s_conv_1x': (0.05, '42.1 box AP, 38.5 mask AP'),
    'fpn_efficientmod_s_40k': (1e-4, '46.0 mIoU'),
    'fpn_efficientmod_s_conv_40k': (1e-4, '43.5 mIoU'),
}, lr=2e-4, drop_path=0.02, batch=32, optimizer='AdamW', no_decay='', loss_scale=None, sizes='single', commit='ec04df6')

SMT = rows('lr weight_decay drop_path no_decay sizes figures', {
    'retinanet_smt_small_3x': (1e-4, 0.05, 0.2, '', 'many', '47.3 box AP'),
    'mask_rcnn_smt_base_3x': (2e-4, 0.05, 0.3, 'norms', 'many', '49.8 box AP, 44.0 mask AP'),
    'mask_rcnn_smt_small_3x': (2e-4, 0.05, 0.2, 'norms', 'many', '49.0 box AP, 43.4 mask AP'),
    'cascade_mask_rcnn_smt_small_3x': (1e-4, 0.05, 0.2, '', 'many', '51.9 box AP, 44.7 mask AP'),
    'upernet_smt_base_160k': (6e-5, 0.01, 0.3, '', 'single', '49.6 mIoU, 50.6 at many scales'),
    'upernet_smt_small_160k': (6e-5, 0.01, 0.2, '', 'single', '49.2 mIoU, 50.2 at many scales'),
}, batch=16, optimizer='AdamW', loss_scale=None, commit='11e954d')

VAN = rows('lr weight_decay drop_path batch no_decay figures', {
    'fpn_van_b0_40k': (2e-4, 1e-4, 0.2, 32, '', '38.5 mIoU'),
    'fpn_van_b1_40k': (2e-4, 1e-4, 0.2, 32, '', '42.9 mIoU'),
    'fpn_van_b2_40k': (2e-4, 1e-4, 0.2, 32, '', '46.7 mIoU'),
    'fpn_van_b3_40k': (2e-4, 1e-4, 0.3, 32, '', '48.1 mIoU'),
    'fpn_van_b4_40k': (2e-4, 1e-4, 0.4, 32, '', 'no figure in the repository'),
    'upernet_van_b0_160k': (6e-5, 0.01, 0.1, 16, 'norms', '41.1 mIoU at many scales'),
    'upernet_van_b1_160k': (6e-5, 0.01, 0.1, 16, 'norms', '44.9 mIoU at many scales'),
    'upernet_van_b2_160k': (6e-5, 0.01, 0.1, 16, 'norms', '50.1 mIoU at many scales'),
    'upernet_van_b3_160k': (6e-5, 0.01, 0.3, 16, 'norms', '50.6 mIoU at many scales'),
    'upernet_van_b4_160k': (6e-5, 0.01, 0.4, 32, 'norms', '52.2 mIoU at many scales'),
    'upernet_van_b4_in22k_160k': (6e-5, 0.01, 0.4, 32, 'norms', '53.5 mIoU at many scales'),
    'upernet_van_b5_in22k_160k': (6e-5, 0.01, 0.4, 16, 'norms', '53.9 mIoU at many scales'),
    'upernet_van_b6_in22k_160k': (6e-5, 0.01, 0.5, 16, 'norms', '54.7 mIoU at many scales'),
}, optimizer='AdamW', loss_scale=None, sizes='single', commit='8285fc7')

LITV2 = rows('lr drop_path no_decay loss_scale figures', {
    'retinanet_litv2_b_1x': (1e-4, 0.3, '', 'dynamic', '46.7 box AP'),
    'retinanet_litv2_b_ws4_1x': (1e-4, 0.3, '', 'dynamic', '46.3 box AP'),
    'retinanet_litv2_m_1x': (1e-4, 0.2, '', 'dynamic', '46.0 box AP'),
    'retinanet_litv2_m_ws4_1x': (1e-4, 0.2, '', 'dynamic', '45.8 box AP'),
    'retinanet_litv2_s_1x': (1e-4, 0.2, '', 'dynamic', '44.0 box AP'),
    'retinanet_litv2_s_ws4_1x': (1e-4, 0.2, '', 'dynamic', '43.7 box AP'),
    'mask_rcnn_litv2_b_1x': (2e-4, 0.3, 'norms', 'dynamic', '47.3 box AP, 42.6 mask AP'),
    'mask_rcnn_litv2_b_ws4_1x': (2e-4, 0.3, 'norms', 'dynamic', '46.8 box AP, 42.3 mask AP'),
    'mask_rcnn_litv2_m_1x': (2e-4, 0.2, 'norms', 'dynamic', '46.8 box AP, 42.3 mask AP'),
    'mask_rcnn_litv2_m_ws4_1x': (2e-4, 0.2, 'norms', 'dynamic', '46.5 box AP, 42.0 mask AP'),
    'mask_rcnn_litv2_s_1x': (2e-4, 0.2, 'norms', 'dynamic', '44.9 box AP, 40.8 mask AP'),
    'mask_rcnn_litv2_s_ws4_1x': (2e-4, 0.2, 'norms', 'dynamic', '44.7 box AP, 40.7 mask AP'),
    'fpn_litv2_b_80k': (1e-4, 0.3, '', None, '47.2 mIoU'),
    'fpn_litv2_m_80k': (1e-4, 0.2, '', None, '45.7 mIoU'),
    'fpn_litv2_s_80k': (1e-4, 0.2, '', None, '44.3 mIoU'),
}, weight_decay=1e-4, batch=16, optimizer='AdamW', sizes='single', commit='7501c86')

OVERLOCK = rows('lr weight_decay drop_path sizes figures', {
    'mask_rcnn_overlock_b_1x': (2e-4, 0.05, 0.6, 'single', '49.9 box AP, 44.4 mask AP'),
    'mask_rcnn_overlock_s_1x': (2e-4, 0.05, 0.4, 'single', '49.4 box AP, 44.0 mask AP'),
    'mask_rcnn_overlock_t_1x': (2e-4, 0.05, 0.2, 'single', '48.3 box AP, 43.3 mask AP'),
    'mask_rcnn_overlock_b_3x': (1e-4, 0.05, 0.6, 'many', '51.4 box AP, 45.3 mask AP'),
    'mask_rcnn_overlock_s_3x': (1e-4, 0.05, 0.4, 'many', '51.0 box AP, 45.0 mask AP'),
    'mask_rcnn_overlock_t_3x': (1e-4, 0.05, 0.2, 'many', '49.6 box AP, 43.9 mask AP'),
    'upernet_overlock_b_160k': (6e-5, 0.01, 0.5, 'single', '51.7 mIoU'),
    'upernet_overlock_s_160k': (6e-5, 0.01, 0.3, 'single', '51.3 mIoU'),
    'upernet_overlock_t_160k': (6e-5, 0.01, 0.2, 'single', '50.3 mIoU'),
}, batch=16, optimizer='AdamW', no_decay='norms', loss_scale=None, commit='2c8ab3b')

PATNET = rows('lr drop_path figures', {
    'mask_rcnn_patnet_l_1x': (1e-4, 0.3, 'no figure in the repository'),
    'mask_rcnn_patnet_m_1x': (1e-4, 0.2, 'no figure in the repository'),
    'mask_rcnn_patnet_s_1x': (2e-4, 0.15, 'no figure in the repository'),
}, weight_decay=1e-4, batch=16, optimizer='AdamW', no_decay='', loss_scale=None, sizes='single', commit='679cfc0')

IFORMER = rows('weight_decay batch figures', {
    'mask_rcnn_iformer_l_1x': (0.05, 16, '42.2 box AP, 39.1 mask AP'),
    'mask_rcnn_iformer_m_1x': (0.05, 16, '40.8 box AP, 37.9 mask AP'),
    'fpn_iformer_l_40k': (1e-4, 32, '44.5 mIoU'),
    'fpn_iformer_m_40k': (1e-4, 32, '42.4 mIoU'),
}, lr=2e-4, drop_path=None, optimizer='AdamW', no_decay='', loss_scale=None, sizes='single', commit='2a87540')

ECANET = rows(' figures', {
    'retinanet_ecanet_resnet101_1x': ('39.1 box AP',),
    'retinanet_ecanet_resnet50_1x': ('37.3 box AP',),
    'mask_rcnn_ecanet_resnet101_1x': ('41.3 box AP, 37.4 mask AP',),
    'mask_rcnn_ecanet_resnet50_1x': ('39.0 box AP, 35.6 mask AP',),
}, lr=0.01, weight_decay=1e-4, drop_path=None, batch=8, optimizer='SGD',
    no_decay='', loss_scale=None, sizes='single', commit='b332f6b')

FCANET = rows(' figures', {
    'mask_rcnn_fcanet_resnet50_1x': ('40.3 box AP, 36.2 mask AP',),
}, lr=0.01, weight_decay=1e-4, drop_path=None, batch=8, optimizer='SGD',
    no_decay='frozen', loss_scale=None, sizes='single', commit='aa5fb63')

RECIPES = (
    FLATTEN | AGENT_PVT | AGENT_SWIN | INLINE | RAVLT | MAVIT | L2VIT | BIFORMER | EFFICIENTMOD | SMT | VAN | LITV2
    | OVERLOCK | PATNET | IFORMER | ECANET | FCANET)
