# BUNDLE: the environment's, or the folder bundle/ of the project
if(DEFINED ENV{BUNDLE})
  get_filename_component(BUNDLE "$ENV{BUNDLE}" ABSOLUTE BASE_DIR "${SOURCE}")
else()
  set(BUNDLE "${SOURCE}/bundle")
endif()
if(NOT EXISTS "${BUNDLE}/pixels.onnx" OR NOT EXISTS "${BUNDLE}/golden/golden.json")
  message(FATAL_ERROR "no bundle at ${BUNDLE} (pixels.onnx and golden/): put one there, or set BUNDLE in the environment")
endif()
