"""Running an engine on the device, without torch: letterbox, session, decode, predictions."""
