"""Shapes that neighborhood attention and sums in plain torch are tested at."""

SHAPES = {  # height, width, kernel size, dilation, stride
    'one window': (7, 7, 7, 1, 1), 'square': (14, 14, 7, 1, 1), 'non-square': (15, 9, 5, 1, 1),
    'one token': (1, 1, 1, 1, 1), 'a token per window': (3, 4, 1, 2, 1), 'smallest': (3, 3, 3, 1, 1),
    'a row': (3, 30, 3, 1, 1), 'many tiles': (30, 41, 5, 1, 1), 'kernel 9': (17, 21, 9, 1, 1),
    'kernel 11': (12, 25, 11, 1, 1), 'kernel 13': (29, 13, 13, 1, 1), 'kernel 13, tiles': (31, 37, 13, 1, 1),
    'a window per class': (14, 14, 7, 2, 1), 'dilated': (28, 28, 7, 3, 1), 'not divisible': (23, 31, 5, 4, 1),
    'dilation 8': (56, 59, 7, 8, 1), 'dilation 16': (49, 50, 3, 16, 1), 'dilated tiles': (45, 61, 3, 2, 1),
    'apart': (20, 33, (3, 7), (5, 2), 1), 'kernel of a row': (6, 40, (1, 9), (1, 4), 1),
    'stride 2': (19, 22, 7, 1, 2), 'blocked': (15, 23, 5, 1, 5), 'stride and dilation': (26, 41, 5, (3, 4), (2, 3)),
    'stride per axis': (40, 33, (7, 3), 1, (4, 1)), 'blocks of 9': (40, 20, 9, (1, 2), 9)}
