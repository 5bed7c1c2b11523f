_base_ = ['cascade_mask_rcnn.py', 'coco_instance_ms.py', 'schedule_3x.py', 'runtime.py']
