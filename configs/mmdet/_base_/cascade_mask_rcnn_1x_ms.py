_base_ = ['cascade_mask_rcnn.py', 'coco_instance_ms.py', 'schedule_1x.py', 'runtime.py']
