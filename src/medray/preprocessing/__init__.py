"""From a cohort to arrays that a network eats: the plan, resampling, intensities, patches, augmentation."""
