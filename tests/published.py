"""The sizes of the published classifiers, counted from the authors' definitions."""
#: Architecture -> parameters of the training form with both heads for 1000 classes, parameters of the fused form with
#: one head, and multiply-adds of the latter in G at 224 x 224.
SIZES = {
    'm0_6': (2_808_932, 2_468_072, 0.385),
    'm0_9': (5_489_328, 5_067_056, 0.816),
    'm1_0': (7_302_796, 6_810_312, 1.106),
    'm1_1': (8_802_912, 8_244_312, 1.337),
    'm1_5': (14_644_432, 14_049_992, 2.274),
    'm2_3': (23_688_792, 22_926_792, 4.516),
    'm1': (5_485_248, 5_067_056, 0.816),
    'm2': (8_797_984, 8_244_312, 1.337),
    'm3': (10_682_832, 10_115_720, 1.859),
}
