"""Which pixels a model's answer rests on: maps per image. A table maps a kind to its class."""

ATTRIBUTIONS = {
    "saliency": "deconfound.attributions.gradients:Saliency",
    "input_x_gradient": "deconfound.attributions.gradients:InputXGradient",
    "smooth_grad": "deconfound.attributions.gradients:SmoothGrad",
    "integrated_gradients": "deconfound.attributions.integrated_gradients:IntegratedGradients",
    "grad_cam": "deconfound.attributions.grad_cam:GradCAM",
    "lrp": "deconfound.attributions.lrp:LRP",
    "deep_lift": "deconfound.attributions.relu_rules:DeepLift",
    "guided_backprop": "deconfound.attributions.relu_rules:GuidedBackprop",
    "occlusion": "deconfound.attributions.occlusion:Occlusion",
    "shapley": "deconfound.attributions.patches:Shapley",
    "kernel_shap": "deconfound.attributions.patches:KernelSHAP",
    "lime": "deconfound.attributions.patches:LIME",
}
