"""The training pipeline: from handwriting to the policy and the PRM that cos-serve embeds."""
