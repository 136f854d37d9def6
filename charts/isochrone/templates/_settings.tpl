{{/* The operator's settings as variables of its environment, by the names that its own --help gives. */}}
{{- define "isochrone.settings" -}}
- name: ISOCHRONE_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: ISOCHRONE_IDENTITY
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: ISOCHRONE_POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- $settings := dict
  "WATCH_NAMESPACES" (join "," .Values.watchNamespaces)
  "OPERATOR_IMAGE" (include "isochrone.image" (dict "root" . "image" .Values.images.operator))
  "RUNTIME_IMAGE" (include "isochrone.image" (dict "root" . "image" .Values.images.runtime))
  "RUNTIME_TORCH_IMAGE" (include "isochrone.image" (dict "root" . "image" .Values.images.runtimeTorch))
  "IMAGE_PULL_POLICY" .Values.images.pullPolicy
  "IMAGE_PULL_SECRETS" (join "," .Values.images.pullSecrets)
  "STORE_CLASS" .Values.store.storageClassName
  "STORE_SIZE" .Values.store.size
  "STORE_ACCESS_MODE" .Values.store.accessMode
  "CACHE_SIZE" .Values.nodeCache.sizeLimit
  "GATEWAY_REPLICAS" .Values.gateway.replicas
  "GATEWAY_CPU" .Values.gateway.cpu
  "GATEWAY_MEMORY" .Values.gateway.memory
  "BUILDER_CPU" .Values.builder.cpu
  "BUILDER_MEMORY" .Values.builder.memory
  "BUILDER_MEMORY_LIMIT" .Values.builder.memoryLimit
  "API_SERVER_CIDRS" (join "," .Values.networkPolicy.apiServer.cidrs)
  "API_SERVER_PORTS" (join "," .Values.networkPolicy.apiServer.ports)
  "CLUSTER_DOMAIN" .Values.clusterDomain
  "KARPENTER" .Values.engines.karpenter
  "CLUSTER_API" .Values.engines.clusterAPI
  "DEBOUNCE" .Values.operator.debounce
  "DWELL" .Values.operator.dwell
  "SHRINK_AFTER" .Values.operator.shrinkAfter
  "ROLLOUT" .Values.operator.rollout
  "APPROVAL" .Values.operator.approval
  "REQUESTS_PER_SECOND" .Values.operator.requestsPerSecond
  "LOG_LEVEL" .Values.operator.logLevel
-}}
{{- range $name, $value := $settings }}
- name: ISOCHRONE_{{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}
