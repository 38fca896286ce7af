"""From a config to mmengine's Runner."""
